# Everything runs in the virtual environment .venv, made with $(PYTHON).
PYTHON ?= python3
# More arguments for pytest or tox: make test ARGS='-k forks'
ARGS ?=

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo picture quick test lint style types layers format docs bench drill \
	pool-suite matrix wheel clean

help:
	@echo 'make demo     run the example app, live in the browser; Ctrl-C stops it'
	@echo 'make quick    run the tests that need PostgreSQL alone and no time, a minute'
	@echo 'make test     run all tests, nine minutes; as root on Debian this installs missing'
	@echo '              servers (SERVICES=none refuses that)'
	@echo 'make lint     check style, types and layers; or one: make style, make types, make layers'
	@echo 'make format   put the code in style'
	@echo 'make docs     write the settings tables of README.rst and docs/ from the declaration'
	@echo 'make picture  take the picture of the example app for README.rst'
	@echo 'make bench    measure the pool beside its peers, a quarter of an hour'
	@echo 'make drill    let the database fail under the example app, a quarter of an hour'
	@echo 'make pool-suite  run the pool tests of SQLAlchemy itself on ManagedPool, 2.0 and 2.1'
	@echo 'make matrix   run the tests with each Python and SQLAlchemy (tox)'
	@echo 'make wheel    build the wheel and try it in a clean environment'
	@echo 'make clean    remove everything that these commands made'
	@echo
	@echo 'PYTHON=python3.12 chooses the Python, ARGS="-k name" goes to pytest or tox.'

demo:
	@tools/install demo
	@exec .venv/bin/python -m example_app.demo $(ARGS)

quick:
	@tools/install test
	@.venv/bin/python tools/run_tests --quick $(ARGS)

test:
	@tools/install test
	@tools/install_services
	@tools/install_mysqlclient .venv/bin/python
	@.venv/bin/python tools/run_tests $(ARGS)

lint: style types layers

style:
	@tools/install lint
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

types:
	@tools/install lint
	.venv/bin/python -m mypy
	cd example_app && ../.venv/bin/python -m mypy -p example_app

layers:
	@tools/install lint
	.venv/bin/lint-imports

format:
	@tools/install lint
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

picture:
	@tools/install test
	@tools/install_services
	@folder=$$(mktemp -d) && \
	WRITE_PICTURES=$$folder .venv/bin/python -m pytest -q -k picture_of_the_readme && \
	cp $$folder/notes.png example_app/ && echo "Look at them: $$folder"

docs:
	@tools/install test
	.venv/bin/python tools/settings_table

bench:
	@tools/install test
	.venv/bin/python -m benchmarks $(ARGS)

drill:
	@tools/install test
	.venv/bin/python -m drills $(ARGS)

pool-suite:
	@tools/install matrix
	@tools/matrix -e pool-suite-sa20,pool-suite-sa21 $(ARGS)

matrix:
	@tools/install matrix
	@tools/install_services
	# Not at once: two installations would write the same egg-info.
	@tools/matrix run --notest $(ARGS)
	@tools/matrix run-parallel --parallel 2 --parallel-no-spinner $(ARGS)

wheel:
	@tools/install wheel
	@tools/wheel

clean:
	rm -rf .venv .tox .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf build dist var *.egg-info example_app/build example_app/*.egg-info
	rm -rf example_app/.mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
