"""What is run from the command line.

`pdbpool` has the parser and the exit codes; the commands are in `configuration` (settings, show),
`checking` (check), `top`, `live` (stacks, events) and `commands` (refresh, resize, pause, resume).

- What a file says: `ini`, `places` (the line of each setting), `effective` (what holds).
- What a server allows: `budget`.
- What processes answer: `asking`, `watch` and `overview` (the numbers of a look), `frames` (lines
  that fit a terminal), `screen` (live; needs rich), `terminal` (keys).
- How all say it: `errors`, `tables`, `wording`.
"""

import warnings

# Pyramid imports pkg_resources, which from setuptools 80.9 on would put two lines about itself
# before whatever a command here says.
warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API", UserWarning)
