"""`python -m lens_recipes`."""

from .cli import main

if __name__ == "__main__":
    main()
