"""Where results go: videos, label images, JSON lines, standard output, an HTTP preview, a window, a function."""
