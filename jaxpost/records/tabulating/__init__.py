"""The tables of a report: which rows they hold, how numbers are written, as CSV and as LaTeX."""
