"""Training rows: `rows` reads, checks and writes them, and makes a dataset for TRL (`rows.to_dataset`); `builders`
makes rows from your own photos."""
