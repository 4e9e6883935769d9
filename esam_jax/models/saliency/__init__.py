"""Networks that tell what of a picture catches the eye."""
