"""Where the README's figures come from: one command each, all sides in one run."""
