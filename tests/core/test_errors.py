import pickle

import pytest

from hermetic.errors import EXIT_CODES, Domain, HermeticError, HermeticErrors


def test_every_domain_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Domain)


def test_survives_pickling_with_all_fields() -> None:
    error = HermeticError(Domain.BUILD, "stage-failed", "it broke", hint="try again", data={"stage": "x"})
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.domain, copy.reason, copy.message, copy.hint, copy.data) == (
        error.domain,
        error.reason,
        error.message,
        error.hint,
        error.data,
    )


@pytest.mark.parametrize(
    ("domains", "code"),
    [
        ([Domain.BUILD, Domain.TIMEOUT], 101),
        ([Domain.BUILD, Domain.HASH], 102),
        ([Domain.RECIPE, Domain.RECIPE], 3),
        ([Domain.BUILD, Domain.ENVIRONMENT], 4),
    ],
)
def test_several_errors_exit_with_one_code(domains: list[Domain], code: int) -> None:
    assert HermeticErrors([HermeticError(domain, "x", "y") for domain in domains]).exit_code == code
