"""The exceptions of gpt2dist.

    Gpt2distError
    ├── UserError                    wrong input: one message, no traceback, exit code 2
    │   ├── RankUserError            wrong input that only one rank can see
    │   └── UnknownCharacterError    gpt2dist.tokenizer.tokenizer
    ├── RunError                     a failure that the message explains: exit code 1
    │   └── RankRunError             a failure that only one process can see
    ├── PeerLostError                another rank is gone, so that no collective can succeed
    ├── HungError                    a rank makes no progress; gpt2dist.training.watchdog
    ├── HookError                    a user's training hook failed; gpt2dist.training.hooks
    ├── StopRequestedError           all ranks stop on request; gpt2dist.training.stop
    ├── TaskCancelledError           the job was stopped; gpt2dist.preprocessing.worker
    ├── BadDocumentError             a document cannot be read; gpt2dist.corpus.documents
    ├── UncuttableError              a long text cannot be encoded in pieces; gpt2dist.tokenizer.encoder
    └── InvalidCheckpointError       a checkpoint is damaged or incomplete; gpt2dist.checkpoint.manifest

The command line prints the message of a UserError or a RunError. It shows the traceback of a HookError, which
leads into the user's code. The package handles the others itself. Anything else is a bug, and its traceback is
shown.
"""


class Gpt2distError(Exception):
    """Base class of the exceptions that gpt2dist raises on purpose."""


class UserError(Gpt2distError):
    """Wrong input. Shown as one message without a traceback; exit code 2.

    The message names the file, line or key, explains what is wrong with it, and suggests a fix.
    """


class RankUserError(UserError):
    """Wrong input that only this rank can see, so this rank reports it instead of rank 0."""


class RunError(Gpt2distError):
    """A failure that wrong input did not cause, with the reason in its message; exit code 1."""


class RankRunError(RunError):
    """A failure that only this process can see, such as a launcher's, so it reports it instead of rank 0."""


class PeerLostError(Gpt2distError):
    """Another rank, its host or the network is gone, so that no collective can succeed."""
