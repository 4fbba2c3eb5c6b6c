"""The command line, of which the second process is killed before its third epoch."""

import os
import signal

from ceag_cli.cli import main
from ceag_cli.training import Training

if os.environ["RANK"] == "1":
    one_epoch = Training._one_epoch

    def one_epoch_or_none(training, update):  # type: ignore[no-untyped-def]
        if training.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return one_epoch(training, update)

    Training._one_epoch = one_epoch_or_none  # type: ignore[method-assign]

main()
