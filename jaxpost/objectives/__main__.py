"""`python -m jaxpost.objectives`: the recipe table."""

from rich.console import Console
from rich.table import Table

from jaxpost.objectives.recipes import table


def main():
    """Print the table."""
    view = Table("name", "family", "paper", "batch", "parts", title="objectives")
    for row in table():
        view.add_row(row["name"], row["family"], row["paper"], row["batch"],
                     " ".join(f"{k}={v}" for k, v in row["parts"].items()))
    Console().print(view)


if __name__ == "__main__":
    main()
