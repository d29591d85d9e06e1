"""``python -m flowmodel``: the ``flowmodel`` command."""

from flowmodel.cli import main

if __name__ == "__main__":
    main(prog_name="flowmodel")
