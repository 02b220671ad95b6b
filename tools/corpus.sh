#!/usr/bin/env bash
# English text for the training mixtures, from Debian documentation packages:
#
#   tools/corpus.sh DIRECTORY        writes DIRECTORY/corpus.jsonl and DIRECTORY/manifest.json
#
# Packages are downloaded and unpacked into a scratch folder, nothing is installed. The text is made ASCII, cut into
# passages of 64 to 20,000 characters, and cleaned: lines with fewer than 60 % letters, and lines most of whose runs of
# eight words were seen before, are dropped. The manifest lists per source the package, its version and SHA-256, the
# licence and the size. The text belongs to its authors and is not part of this repository.
set -euo pipefail
[ $# = 1 ] || { echo "usage: tools/corpus.sh DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
case "$out/" in "$(cd "$(dirname "$0")/.." && pwd)"/*) echo "corpus: the text must not lie in the repository" >&2; exit 2;; esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cd "$scratch"
packages="wordnet-base dict-gcide gnome-user-docs debian-handbook python3.11-doc anarchism bible-kjv bible-kjv-text"
apt-get -qq download $packages 2>/dev/null || { echo "corpus: cannot download $packages (run apt-get update first?)" >&2; exit 1; }
mkdir x
for deb in *.deb; do dpkg-deb -x "$deb" "x/$(dpkg-deb -f "$deb" Package)"; done
# The Bible is packed; its own reader prints it.
COLUMNS=10000 x/bible-kjv/usr/bin/bible -p x/bible-kjv-text/usr/lib -d bible.data -f Gen1:1-Rev22:21 > bible.txt 2>/dev/null </dev/null || true
for deb in *.deb; do
  echo "$(dpkg-deb -f "$deb" Package) $(dpkg-deb -f "$deb" Version) $(sha256sum "$deb" | cut -d' ' -f1)"
done > versions.txt

python3 - "$scratch" "$out" <<'EOF'
import glob, gzip, html, json, os, re, sys, unicodedata, zlib

scratch, out = sys.argv[1], sys.argv[2]
SHORTEST, LONGEST = 64, 20000

QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: " - ", 0x2026: "...", 0xA0: " ", 0x2022: "*", 0x2192: "->"}

def ascii_text(text):
    text = unicodedata.normalize("NFKC", text.translate(QUOTES))
    text = unicodedata.normalize("NFD", text)
    return text.encode("ascii", "ignore").decode()

def strip_tags(text):
    text = re.sub(r"(?is)<(script|style|head|nav|pre|code|table|svg)\b.*?</\1>", " ", text)
    text = re.sub(r"(?is)</?(p|div|section|h[1-6]|li|ul|ol|item|title|steps|list|note|info|br)\b[^>]*>", "\n", text)
    return html.unescape(re.sub(r"(?s)<[^>]*>", "", text))

def paragraphs(text):
    for part in re.split(r"\n\s*\n|\n(?=\s*[*-] )", text):
        line = " ".join(part.split())
        if line:
            yield line

def read(path):
    raw = open(path, "rb").read()
    if path.endswith((".gz", ".dz")):
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")

def files(pattern):
    return sorted(glob.glob(os.path.join(scratch, "x", pattern), recursive=True))

def from_files(pattern, convert):
    for path in files(pattern):
        yield list(paragraphs(convert(read(path))))

def markup(text):  # mallard and docbook: what is not running text goes first
    return strip_tags(re.sub(r"(?is)<(info|desc|credit|links)\b.*?</\1>", " ", text))

def html_body(text):
    body = re.search(r"(?is)<body\b.*", text)
    return strip_tags(re.sub(r"\s*\n\s*", " ", re.sub(r"(?i)<(p|li|h[1-6]|div)\b", r"\n\n<\1", (body.group(0) if body else text).replace("\n", " ")).replace("\n\n", "@@P@@")).replace("@@P@@", "\n\n"))

def rst(text):
    text = re.sub(r"(?m)^\.\. .*(\n[ \t]+.*|\n\s*\n(?=[ \t]))*", "", text)         # directives and their blocks
    text = re.sub(r"(?m)^(>>>|\.\.\.|    ).*$", "", text)                              # code
    text = re.sub(r":[a-z:+-]+:`~?!?([^`<]*?)(\s*<[^`]*>)?`", r"\1", text)             # roles
    return re.sub(r"`+|\*\*?|\|", "", re.sub(r"(?m)^[=\-~^\"*#]{3,}\s*$", "", text)).replace("::", ":")

def wordnet():
    rows = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in read(os.path.join(scratch, "x/wordnet-base/usr/share/wordnet/data." + part)).splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            fields, gloss = line.split(" | ", 1)
            word = re.sub(r"\(.*?\)", "", fields.split()[4]).replace("_", " ")
            examples = re.findall(r'"([^"]{8,})"', gloss)
            meaning = re.sub(r';?\s*"[^"]*"', "", gloss).strip(" ;")
            if not re.fullmatch(r"[a-z][a-z' -]*", word) or len(meaning) < 8:
                continue
            rows.append(f"{word}: {meaning}." + "".join(f" {e[0].upper()}{e[1:].rstrip('.')}." for e in examples[:2]))
    for i in range(0, len(rows), 8):
        yield rows[i:i + 8]

def gcide():
    rows = []
    text = read(os.path.join(scratch, "x/dict-gcide/usr/share/dictd/gcide.dict.dz"))
    for entry in re.split(r"\n(?=[A-Z][a-z-]+ \\)", text):
        head = re.match(r"([A-Z][a-z-]+) \\", entry)
        if not head or "[Obs" in entry:
            continue
        body = entry.split("\n", 1)[-1]
        body = re.sub(r"\[[^\]]*\]|--[A-Z][A-Za-z. ]*|[{}]|\([^)]*\)", "", body)
        meanings = re.findall(r"(?m)^   (?:\d+\. )?([A-Z][^\n]*(?:\n {3,6}\S[^\n]*)*)", body)
        line = " ".join(" ".join(meanings[:2]).split())
        if len(line) > 20 and "\\" not in line:
            rows.append(f"{head.group(1)}: {line}")
    for i in range(0, len(rows), 8):
        yield rows[i:i + 8]

def bible():
    verses, last = [], None
    for line in open(os.path.join(scratch, "bible.txt"), errors="replace"):
        verse = re.sub(r"^[0-9A-Za-z]*\d*:?\d+\s+", "", " ".join(line.split()))
        verse = re.sub(r"^\d+\s+", "", verse)
        if verse:
            verses.append(verse)
    for i in range(0, len(verses), 20):
        yield verses[i:i + 20]

SOURCES = [
    ("wordnet", "wordnet-base", "WordNet licence (BSD-like)", wordnet()),
    ("gcide", "dict-gcide", "GPL-2+", gcide()),
    ("gnome-user-docs", "gnome-user-docs", "CC-BY-SA-3.0", from_files("gnome-user-docs/usr/share/help/C/**/*.page", markup)),
    ("debian-handbook", "debian-handbook", "GPL-2+ or CC-BY-SA-3.0", from_files("debian-handbook/usr/share/doc/debian-handbook/html/en-US/*.html", html_body)),
    ("python-doc", "python3.11-doc", "PSF-2", from_files("python3.11-doc/usr/share/doc/python3.11/html/_sources/**/*.rst.txt", rst)),
    ("anarchism", "anarchism", "GPL-2", from_files("anarchism/usr/share/doc/anarchism/html/*.html*", html_body)),
    ("bible-kjv", "bible-kjv-text", "public domain text", bible()),
]

seen = set()
def fresh(line):  # most of its runs of eight words are new
    words = line.lower().split()
    grams = [zlib.crc32(" ".join(words[i:i + 8]).encode()) for i in range(max(1, len(words) - 7))]
    known = sum(g in seen for g in grams)
    seen.update(grams)
    return known * 2 < len(grams)

def good(line):
    letters = sum(c.isalpha() or c == " " for c in line)
    return len(line) >= 3 and letters >= 0.6 * len(line)

versions = {name: (version, digest) for name, version, digest in (l.split() for l in open(os.path.join(scratch, "versions.txt")))}
manifest, lines = [], 0
with open(os.path.join(out, "corpus.jsonl.part"), "w") as corpus:
    for name, package, licence, texts in SOURCES:
        passages = size = 0
        for text in texts:
            kept, length = [], 0
            def flush():
                global lines
                if length >= SHORTEST:
                    corpus.write(json.dumps({"source": name, "text": "\n".join(kept)}) + "\n")
                    lines += 1
                    return 1, length
                return 0, 0
            for line in map(ascii_text, text):
                line = line[:LONGEST // 2]
                if not good(line) or not fresh(line):
                    continue
                if length + len(line) > LONGEST:
                    p, s = flush()
                    passages, size, kept, length = passages + p, size + s, [], 0
                kept.append(line)
                length += len(line) + 1
            p, s = flush()
            passages, size = passages + p, size + s
        version, digest = versions[package]
        manifest.append({"source": name, "package": package, "version": version, "sha256": digest, "licence": licence, "passages": passages, "bytes": size})
        print(f"{name:<16} {passages:>7} passages {size / 1e6:>7.1f} MB  {licence}", file=sys.stderr)
        if not size:
            sys.exit(f"corpus: {name}: no text found in {package} {version}")
os.replace(os.path.join(out, "corpus.jsonl.part"), os.path.join(out, "corpus.jsonl"))
json.dump(manifest, open(os.path.join(out, "manifest.json"), "w"), indent=1)
EOF
sha256sum "$out/corpus.jsonl"
