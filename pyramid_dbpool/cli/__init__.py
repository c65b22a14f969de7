"""What is run from the command line.

- `pdbpool`: ``pdbpool settings`` and ``pdbpool check``.
"""

import warnings

# Pyramid imports pkg_resources, which from setuptools 80.9 on would put two lines about itself
# before whatever a command here says.
warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API", UserWarning)
