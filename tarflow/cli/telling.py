"""How a command tells of errors: in one sentence, where a user can mend them."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf import MissingMandatoryValue
from omegaconf.errors import InterpolationResolutionError

from tarflow.errors import TarflowError


@contextmanager
def told_plainly() -> Iterator[None]:
    """End the program with the message alone, where an error is the user's to mend."""
    try:
        yield
    except TarflowError as error:
        sys.exit(f"tarflow: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # a full disk, or share
            raise
        sys.exit(f"tarflow: {error}: make room, and give the same command again")
    except MissingMandatoryValue as error:
        sys.exit(f"tarflow: {error.full_key} is needed: give {error.full_key}=...")
    except InterpolationResolutionError as error:
        sys.exit(f"tarflow: {str(error).splitlines()[0]} (in {error.full_key})")
    except InstantiationException as error:
        cause = error.__cause__  # of arguments, or else a bug
        lightnings = type(cause).__name__ == "MisconfigurationException"
        if not lightnings and not isinstance(cause, ValueError | TypeError | LookupError):
            raise
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        sys.exit(f"tarflow: {cause} (in {place})")
