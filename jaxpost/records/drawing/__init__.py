"""The figures of a report: what each shows, and the style they share."""
