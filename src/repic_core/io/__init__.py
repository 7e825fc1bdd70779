"""Files, the lowest room: text and atomic writes (`files`), paths from elsewhere (`paths`), photos as a model sees
them (`images`, `decode`), photos from strangers (`uploads`), and tables as text (`tables`)."""
