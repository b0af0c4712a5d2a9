"""The title and the text of HTML and PDF documents, by well-kept libraries.

Whatever keeps a document from being read raises NoText with the reason in words.
"""


class NoText(Exception):
    """A document without readable text; the message says why."""


def html_text(page: bytes | str) -> tuple[str, str]:
    """Title and main text of an HTML page, found by trafilatura; all of its text failing that."""
    from trafilatura import bare_extraction, html2txt
    from trafilatura.settings import Document

    if not page.strip():
        return "", ""
    document = bare_extraction(page, with_metadata=True)
    if isinstance(document, Document):
        title, text = document.title or "", document.text or ""
    else:  # no main text to be told from the rest: all of it
        title, text = "", html2txt(page) or html2txt(_whole(page))
    if not text.strip():
        raise NoText("no text found in this HTML")
    return " ".join(title.split()), text.strip()


def _whole(fragment: bytes | str) -> bytes | str:
    """A page around what may be a piece of one, or plain text in spite of its name."""
    begin, end = "<html><body><p></p>", "</body></html>"
    if isinstance(fragment, str):
        return begin + fragment + end
    return begin.encode() + fragment + end.encode()


def pdf_text(content: bytes) -> tuple[str, str]:
    """Title and text of a PDF, page by page, by pypdf."""
    from io import BytesIO

    from pypdf import PdfReader

    try:
        reader = PdfReader(BytesIO(content))
        title = str((reader.metadata and reader.metadata.title) or "")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
    except Exception as error:  # a broken PDF can fail anywhere in the extractor
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NoText(f"not a readable PDF ({reason})") from error
    if not text.strip():
        raise NoText("no text in this PDF (scanned pages need OCR first)")
    return " ".join(title.split()), text.strip()
