"""One saliency bundle behind other model servers, to compare with ours."""
