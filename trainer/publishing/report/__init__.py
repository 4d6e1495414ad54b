"""The page ``report.html`` of a bundle: measurements, tables, figures and the template."""
