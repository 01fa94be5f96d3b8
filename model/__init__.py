"""What training, export and serving must agree on: networks, preprocessing, bundles, runtimes."""
