"""Every error that memex raises on purpose.

    MemexError                 exit 1   base; the message names the thing and the next step
    ├── UsageError             exit 2   what was asked cannot be asked
    │   └── ConfigError                 a setting is wrong; names the key and the line
    ├── NotFound               exit 4   no such snapshot, version, document, retrieval
    ├── Locked                 exit 5   another process writes this state directory
    ├── MissingModel           exit 1   a model is not on this machine; says how to get it
    ├── EndpointFailed         exit 1   the language model's endpoint did not answer, or refused
    ├── ParseError             exit 1   a file cannot be read as what it claims to be
    ├── Busy                   exit 1   too many ask at once; worth another try in a moment
    ├── Stopping               exit 1   the daemon was asked to end and begins nothing new
    ├── TrainingFailed         exit 1   a refresh cycle's child ended without a result
    ├── DiskFailed             exit 1   the disk is full, read-only or failing; what was acknowledged stands
    └── Corrupt                exit 1   acknowledged state cannot be read; says what to do
        └── AnotherModel                an adapter is for another model than the one in the settings

`exit` is the exit code of the command line (see DESIGN of the command line in the README).
"""


class MemexError(Exception):
    """Base of all; `str(error)` is one sentence for a person."""

    exit_code = 1

    def described(self) -> dict[str, str | int]:
        """As the JSON object that scripts read."""
        return {"error": type(self).__name__, "message": str(self), "exit_code": self.exit_code}


class UsageError(MemexError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class NotFound(MemexError):
    exit_code = 4


class Locked(MemexError):
    exit_code = 5


class MissingModel(MemexError):
    pass


class EndpointFailed(MemexError):
    pass


class ParseError(MemexError):
    pass


class Busy(MemexError):
    pass


class Stopping(MemexError):
    pass


class TrainingFailed(MemexError):
    pass


class DiskFailed(MemexError):
    pass


class Corrupt(MemexError):
    pass


class AnotherModel(Corrupt):
    pass
