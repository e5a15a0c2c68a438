"""One row, one module of statistics, one of tables and one of figures for every experiment."""
