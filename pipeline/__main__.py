"""`python -m pipeline`: the command line, where the program `pipeline` isn't on the path."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
