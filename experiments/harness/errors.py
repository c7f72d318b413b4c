"""What a user can cause: one clear line, a documented exit code, no traceback."""

EXIT_USER = 2  # bad config, directory or checkpoint
EXIT_DIVERGED = 3  # a loss became NaN or infinite
EXIT_LOST = 76  # another process of the run ended, or a file system failed: start the run again
EXIT_STOPPED = 75  # SIGTERM or SIGINT: checkpointed, run the same command again to go on


class UserError(Exception):
    """A mistake in the input; the message names what was found, what was expected and the way on."""

    exit_code = EXIT_USER


class Diverged(UserError):
    """Training left the finite numbers."""

    exit_code = EXIT_DIVERGED


class Stopped(UserError):
    """Asked to stop by a signal; everything up to the last boundary is saved."""

    exit_code = EXIT_STOPPED
