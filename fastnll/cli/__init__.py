"""The command ``fastnll``: `main.COMMANDS` lists the subcommands, one module each."""
