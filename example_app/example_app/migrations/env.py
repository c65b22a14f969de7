"""How Alembic reaches the database: through the one engine of these settings.

For `alembic -c development.ini revision --autogenerate` too.
"""

from alembic import context
from pyramid.paster import get_appsettings
from sqlalchemy import func, select

from example_app.migrate import LOCK
from example_app.models import Base
from pyramid_dbpool import get_engine

settings = context.config.attributes.get("settings")
if settings is None:
    settings = get_appsettings(context.config.config_file_name)

with get_engine(settings).begin() as connection:
    # Two workers that start together must not run a migration twice; held to the commit.
    connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
