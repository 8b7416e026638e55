"""Search spaces that come with nas_proxy: one file is one space."""
