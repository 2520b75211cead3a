"""Where results go: videos, label images, JSON lines, standard output, a preview, a window, a function."""
