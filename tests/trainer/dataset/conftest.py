from hypothesis import settings

# A busy machine is no fault of the code: no example is failed for being slow.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
