"""Chat: messages -> text -> tokens and masks; and tool calls in answers, read back."""
