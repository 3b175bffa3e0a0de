"""What several environments share: walls, raster pictures, ways, scripted policies."""
