"""Recommendation quality of trained towers, beside baselines and targets.

- `python -m benchmarks.quality.recipes RECIPE`, or `make quality RECIPE=…`: a recipe trained with several seeds, beside
  all baselines; a recipe for search is judged on graded queries (`graded_search`).
- `python -m benchmarks.quality.new_items RECIPE`: recall of items that training did not know.
- `python -m benchmarks.quality.new_text_items`: the same, with and without the title as text.
- `python -m benchmarks.quality.query_and_user`: towers that get a query, a user, or both.
"""
