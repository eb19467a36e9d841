"""What every room uses: errors, files, boxes, charts and what commands share."""
