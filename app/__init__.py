"""Bundle -> answers over HTTP."""
