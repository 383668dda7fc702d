"""Chat: messages -> text -> tokens and masks."""
