"""The search engine in a PostgreSQL database: its full-text search and pgvector, fused.

A table holds the passages. Their words are ranked by PostgreSQL, which knows no term's rarity;
with an encoder their vectors are, too, and both rankings are fused by reciprocal rank in the same
statement. Previews and portions are made here, so that a model reads what it reads elsewhere.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from nanoscout.errors import UserError
from nanoscout.records import Hit, Page, Passage
from nanoscout.search.index import MAX_QUERY_CHARS
from nanoscout.search.loading import RRF_K, TextEncoder, batches
from nanoscout.search.loop_bound import LoopBound
from nanoscout.search.pages import page_portion
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.search.snippets import PreviewMode, hits_of

AsyncConnection = psycopg.AsyncConnection[Any]

CONNECTIONS = 8
SECONDS = 10.0
"""What a connection, and a statement, may take."""
CANDIDATES = 100
"""Passages that each of the two rankings gives to the fusion."""
MAX_WORD_CHARS = 250_000
"""Characters of a passage whose words are indexed: a tsvector holds one megabyte."""

# Any text as plain terms, one of which must occur.
TERMS = sql.SQL("""
    SELECT string_agg(
        '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''', ' | '
    )::tsquery AS terms
    FROM unnest(to_tsvector('english', %(query)s))
""")

LEXICAL = sql.SQL("""
    SELECT id, row_number() OVER (ORDER BY score DESC, id) AS rank
    FROM (
        SELECT id, ts_rank_cd(words, terms, 1) AS score FROM {table}, _terms
        WHERE words @@ terms ORDER BY score DESC, id LIMIT %(candidates)s
    ) AS _found
""")

DENSE = sql.SQL("""
    SELECT id, row_number() OVER (ORDER BY distance, id) AS rank
    FROM (
        SELECT id, embedding <=> %(vector)s::vector AS distance FROM {table}
        ORDER BY embedding <=> %(vector)s::vector LIMIT %(candidates)s
    ) AS _found
""")

NO_DENSE = sql.SQL("SELECT id, 0::bigint AS rank FROM {table} WHERE false")

SEARCH = sql.SQL("""
    WITH _terms AS ({terms}), _lexical AS ({lexical}), _dense AS ({dense})
    SELECT id, title, text, url, score FROM (
        SELECT id,
            coalesce(1.0 / (%(k)s + _lexical.rank), 0) + coalesce(1.0 / (%(k)s + _dense.rank), 0)
            AS score
        FROM _lexical FULL OUTER JOIN _dense USING (id)
    ) AS _fused JOIN {table} USING (id)
    ORDER BY score DESC, id LIMIT %(limit)s OFFSET %(offset)s
""")


class PostgresSearch:
    """Searches the table that `load_postgres` filled.

    `url` is libpq's (`postgresql://user@host/database`), with the table's name as `table=` in its
    query. Besides SearchUnavailable, `search` and `visit` raise UserError where the database
    refuses, or the table is not there.
    """

    name = "postgresql"

    def __init__(
        self,
        url: str,
        preview: PreviewMode = "first",
        preview_chars: int = 160,
        encoder: TextEncoder | None = None,
    ):
        self._address, self._table = address_and_table(url)
        self._preview = preview
        self._preview_chars = preview_chars
        self._encoder = encoder
        self._pool = LoopBound(lambda: _Pool(self._address))
        dense = DENSE if encoder else NO_DENSE
        self._search = SEARCH.format(
            terms=TERMS,
            lexical=LEXICAL.format(table=self._table),
            dense=dense.format(table=self._table),
            table=self._table,
        )

    async def search(self, query: str, k: int, page: int = 1) -> list[Hit]:
        query = storable(query[:MAX_QUERY_CHARS])
        if not query.strip():
            await self._rows(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(self._table), {})
            return []
        vector = vector_text(self._encoder.query(query)) if self._encoder else None
        values = {
            "query": query,
            "vector": vector,
            "candidates": CANDIDATES,
            "k": RRF_K,
            "limit": k,
            "offset": k * (page - 1),
        }
        rows = await self._rows(self._search, values)
        found = ((Passage(*row[:4]), float(row[4])) for row in rows)
        return hits_of(found, query, self._preview, self._preview_chars)

    async def visit(self, url: str, max_chars: int, offset: int = 0) -> Page | None:
        statement = sql.SQL("SELECT id, title, text, url FROM {} WHERE url = %(url)s")
        rows = await self._rows(statement.format(self._table), {"url": storable(url.strip())})
        return page_portion(Passage(*rows[0]), offset, max_chars) if rows else None

    async def _rows(self, statement: sql.Composed, values: dict[str, Any]) -> list[Any]:
        pool = await self._pool.get()
        try:
            return await pool.rows(statement, values)
        except psycopg.Error as error:
            raise _explained(self._address, error) from error


class _Pool:
    """Connections of one event loop, lent to one statement at a time.

    Without tasks of its own, which the end of an event loop would have to wait for.
    """

    def __init__(self, address: str):
        self._address = address
        self._idle: list[AsyncConnection] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for connection in self._idle:
            await connection.close()

    async def rows(self, statement: sql.Composed, values: dict[str, Any]) -> list[Any]:
        """Raises psycopg.Error; a connection that it happened on is not used again."""
        async with self._free:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                cursor = await connection.execute(statement, values)
                rows = await cursor.fetchall()
            except BaseException:
                await connection.close()
                raise
            self._idle.append(connection)
            return rows

    async def _connect(self) -> AsyncConnection:
        return await psycopg.AsyncConnection.connect(
            self._address,
            autocommit=True,
            connect_timeout=int(SECONDS),
            options=f"-c statement_timeout={int(SECONDS * 1000)}",
        )


def load_postgres(url: str, passages: Iterable[Passage], encoder: TextEncoder | None = None) -> int:
    """Put passages into the table, which is made where there is none; returns how many.

    All or none of them; a passage whose id is there is replaced. Raises UserError.
    """
    address, table = address_and_table(url)
    count = 0
    try:
        with psycopg.connect(address, connect_timeout=int(SECONDS)) as connection:
            _make_table(connection, table, encoder)
            put = _put_statement(table, with_vector=encoder is not None)
            for batch in batches(passages):
                vectors = encoder.passages(batch) if encoder else [None] * len(batch)
                rows = [
                    _row(passage, vector) for passage, vector in zip(batch, vectors, strict=True)
                ]
                with connection.cursor() as cursor:
                    cursor.executemany(put, rows)
                count += len(batch)
    except psycopg.errors.UniqueViolation as error:
        detail = error.diag.message_detail or str(error)
        raise UserError(f"two passages with one URL, nothing is changed: {detail}") from None
    except psycopg.Error as error:
        raise UserError(str(_explained(address, error))) from None
    if not count:
        raise UserError("the corpus is empty: there is nothing to search")
    return count


def _make_table(
    connection: psycopg.Connection[Any], table: sql.Identifier, encoder: TextEncoder | None
) -> None:
    column: sql.Composable = sql.SQL("")
    if encoder:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        column = sql.SQL(", embedding vector({}) NOT NULL").format(sql.Literal(encoder.dimension))
    made = sql.SQL(
        "CREATE TABLE IF NOT EXISTS {} (id text PRIMARY KEY, title text NOT NULL, "
        "text text NOT NULL, url text NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, "
        "words tsvector NOT NULL{})"
    )
    connection.execute(made.format(table, column))
    name = table.as_string(None).strip('"')
    for suffix, using in (
        ("words", "gin (words)"),
        *((("embedding", "hnsw (embedding vector_cosine_ops)"),) if encoder else ()),
    ):
        index = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING {}")
        connection.execute(index.format(sql.Identifier(f"{name}_{suffix}"), table, sql.SQL(using)))


def _put_statement(table: sql.Identifier, *, with_vector: bool) -> sql.Composed:
    column = sql.SQL(", embedding" if with_vector else "")
    value = sql.SQL(", %(vector)s" if with_vector else "")
    update = sql.SQL(", embedding = EXCLUDED.embedding" if with_vector else "")
    return sql.SQL(
        "INSERT INTO {table} (id, title, text, url, words{column}) "
        "VALUES (%(id)s, %(title)s, %(text)s, %(url)s, "
        "to_tsvector('english', %(words)s){value}) "
        "ON CONFLICT (id) DO UPDATE SET title = EXCLUDED.title, text = EXCLUDED.text, "
        "url = EXCLUDED.url, words = EXCLUDED.words{update}"
    ).format(table=table, column=column, value=value, update=update)


def _row(passage: Passage, vector: Any) -> dict[str, Any]:
    title, text = storable(passage.title), storable(passage.text)
    return {
        "id": storable(passage.id),
        "title": title,
        "text": text,
        "url": storable(passage.url),
        "words": f"{f'{title} ' * 3}{text}"[:MAX_WORD_CHARS],
        "vector": None if vector is None else vector_text(vector),
    }


def address_and_table(url: str) -> tuple[str, sql.Identifier]:
    """libpq's part of the URL, and the table, `passages` where none is named."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    table = options.pop("table", "passages")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,50}", table):
        raise UserError(
            f"{url}: table={table}: a letter, then letters, digits and _, not more than 51"
        )
    return urlunsplit(parts._replace(query=urlencode(options))), sql.Identifier(table)


def storable(text: str) -> str:
    """`text` without null characters and lone surrogates, which PostgreSQL has no place for."""
    return text.replace("\0", " ").encode(errors="replace").decode()


def vector_text(vector: Sequence[float]) -> str:
    """pgvector's written form."""
    return "[" + ",".join(f"{value:.7g}" for value in vector) + "]"


REFUSALS = (
    psycopg.errors.InvalidPassword,
    psycopg.errors.InvalidAuthorizationSpecification,
    psycopg.errors.InvalidCatalogName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFile,
    psycopg.errors.DataException,
)


def _explained(address: str, error: psycopg.Error) -> Exception:
    """A UserError for what will not go away by waiting, else SearchUnavailable."""
    parts = urlsplit(address)
    where = f"postgresql://{parts.hostname or ''}{parts.path}"
    what = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, psycopg.errors.UndefinedTable):
        return UserError(f"{where}: {what}; fill it with nanoscout index push")
    if isinstance(error, REFUSALS) or "authentication failed" in what or "does not exist" in what:
        return UserError(f"{where}: {what}")
    return SearchUnavailable(f"{where}: {what}")
