"""One row, one module of tables and one of figures for every experiment."""
