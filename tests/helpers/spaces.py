"""What search spaces of tests derive from."""

from nas_proxy.interfaces import SearchSpace


class UnusedSpace(SearchSpace):
    """A space that fails when it is asked for anything; a test writes what it uses."""

    def suggest(self, trial):
        raise NotImplementedError

    def sample(self, generator):
        raise NotImplementedError

    def mutate(self, architecture, generator):
        raise NotImplementedError

    def build(self, architecture, spec):
        raise NotImplementedError

    def encode(self, architecture):
        raise NotImplementedError
