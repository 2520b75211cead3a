"""Where frames come from: images, video files, cameras, network streams, standard input."""
