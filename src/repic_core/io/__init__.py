"""Files, the lowest room: atomic writes (`files`), photos as a model sees them (`images`), photos from strangers
(`uploads`), and tables as text (`tables`)."""
