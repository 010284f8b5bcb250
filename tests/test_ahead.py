"""Things are made before they are needed: in order, few at a time, and no error is lost."""

import pytest

from handwriting.ahead import made_ahead


def test_results_come_in_the_order_of_the_items_and_few_are_made_before_they_are_taken():
    drawn = []

    def items():
        for item in range(20):
            drawn.append(item)
            yield item

    results = made_ahead(lambda item: item * item, items(), threads=3, ahead=4)
    assert drawn == [0, 1, 2, 3]  # has begun
    for place, result in enumerate(results):
        assert result == place * place and len(drawn) <= place + 4
    assert place == 19


def test_an_error_comes_out_where_its_result_would():
    results = made_ahead(lambda item: 6 // item, [3, 0, 1], threads=1, ahead=3)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_nothing_is_made_of_no_items():
    assert list(made_ahead(str, [], threads=1, ahead=2)) == []
