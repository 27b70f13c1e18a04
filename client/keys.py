"""`difffit keys` and `difffit tenants`: who may do what on the server."""

from enum import StrEnum
from typing import Annotated

import typer

from client.console import Columns, connect, facts, note, or_json, out, plain, show_page, table, when
from client.options import After, AsJson, Limit
from client.responses import Key, NewKey, NewTenant, Tenant, Usage

keys_app = typer.Typer(no_args_is_help=True, help="The keys of your tenant; wants a key with the scope admin.")
tenants_app = typer.Typer(no_args_is_help=True, help="The server's tenants; wants an admin key of the operator's tenant.")

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="An id such as key_…; not the key itself.")]
MostOf = Annotated[int | None, typer.Option(min=0, help="Absent: the server's setting.")]


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys_app.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[Scope, typer.Option(help="read looks, write also changes, admin also manages keys.")] = Scope.WRITE,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Absent: it never expires.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once."""
    with connect(context) as client:
        present(client.create_key(name, scope=scope.value, expires_in_days=expires_in_days), as_json)


def state(key: Key) -> str:
    if key["revoked_at"] is not None:
        return f"revoked {when(key['revoked_at'])}"
    return f"until {when(key['expires_at'])}" if key["expires_at"] is not None else "valid"


KEY_COLUMNS: Columns[Key] = {
    "id": lambda key: key["id"],
    "name": lambda key: plain(key["name"]),
    "scope": lambda key: key["scope"],
    "key": lambda key: f"…{plain(key['hint'])}",
    "state": state,
    "last used": lambda key: when(key["last_used_at"]),
}


@keys_app.command("list")
def list_keys(context: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List keys, newest first."""
    with connect(context) as client:
        show_page(client.keys(limit=limit, after=after), as_json, KEY_COLUMNS)


@keys_app.command("rotate")
def rotate_key(
    context: typer.Context,
    key_id: KeyId,
    grace_seconds: Annotated[int, typer.Option(min=0, help="How much longer the old key works.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a new key in place of one, and show it, this once."""
    with connect(context) as client:
        present(client.rotate_key(key_id, grace_seconds=grace_seconds), as_json)


@keys_app.command("revoke")
def revoke_key(context: typer.Context, key_id: KeyId) -> None:
    """Close a key for ever, at once."""
    with connect(context) as client:
        client.revoke_key(key_id)
    note(f"{plain(key_id)} opens nothing any more")


@tenants_app.command("create")
def create_tenant(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lower case letters, digits, dots, dashes.")],
    as_json: AsJson = False,
) -> None:
    """Make a tenant, and show its first admin key, this once."""
    with connect(context) as client:
        present_tenant(client.create_tenant(name), as_json)


TENANT_COLUMNS: Columns[Tenant] = {
    "id": lambda tenant: tenant["id"],
    "name": lambda tenant: plain(tenant["name"]),
    "created": lambda tenant: when(tenant["created_at"]),
}


@tenants_app.command("list")
def list_tenants(context: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List tenants, newest first."""
    with connect(context) as client:
        show_page(client.tenants(limit=limit, after=after), as_json, TENANT_COLUMNS)


@tenants_app.command("limits")
def set_limits(
    context: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="An id such as ten_….")],
    storage_bytes: MostOf = None,
    queued_jobs: MostOf = None,
    running_jobs: MostOf = None,
    generate_per_minute: MostOf = None,
    as_json: AsJson = False,
) -> None:
    """Set all limits of a tenant: those given, and the server's settings for the others."""
    given = {"storage_bytes": storage_bytes, "queued_jobs": queued_jobs, "running_jobs": running_jobs}
    given |= {"generate_per_minute": generate_per_minute}
    with connect(context) as client:
        tenant = client.set_limits(tenant_id, {name: value for name, value in given.items() if value is not None})
    present_limits(tenant, as_json)


@tenants_app.command("usage")
def show_usage(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what your tenant uses of its limits; any key may ask."""
    with connect(context) as client:
        present_usage(client.usage(), as_json)


@or_json
def present_usage(usage: Usage) -> None:
    out.print(table(["limit", "#used", "#most"], [(n, usage["usage"].get(n), most) for n, most in usage["limits"].items()]))


@or_json
def present_limits(tenant: Tenant) -> None:
    out.print(facts(tenant["limits"].items()))


@or_json
def present_tenant(tenant: NewTenant) -> None:
    out.print(facts([("tenant", f"[bold]{tenant['id']}[/]"), ("name", plain(tenant["name"]))]))
    present(tenant["key"], False)


@or_json
def present(key: NewKey) -> None:
    out.print(facts([("key", key["id"]), ("name", plain(key["name"])), ("scope", key["scope"]), ("state", state(key))]))
    out.print(plain(key["key"]), soft_wrap=True)
    note("[dim]The server keeps only a hash of it: put it in a safe place now.[/]")
