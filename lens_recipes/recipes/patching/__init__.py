"""Maps of what matters: a cell of one run put into another, cell by cell."""
