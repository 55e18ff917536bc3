"""Similar tiles and slides over a whole store: what is asked, where is looked, what is shown."""
