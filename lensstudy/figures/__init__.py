"""Every figure of the study, in one style: units, captions and alternative texts belong to the function that draws."""
