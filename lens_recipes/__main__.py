"""`python -m lens_recipes`."""

from lens_recipes.cli.app import main

if __name__ == "__main__":
    main()
