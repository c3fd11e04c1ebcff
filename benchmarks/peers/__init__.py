"""The same work in other frameworks. They are imported when a module is run, never by this package."""
