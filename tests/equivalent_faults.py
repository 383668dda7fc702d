"""Changes of the source that mean the same as what they replace: no test could notice them.

{(file, function, what stands there, what would stand there): why it is the same}"""

EQUIVALENT = {}
