"""Do the methods teach, and is it more than sharpening? Over the embedded world, several worlds and seeds."""
