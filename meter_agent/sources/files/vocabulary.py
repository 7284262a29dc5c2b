"""The words of exports in several languages: columns' names, sums, estimated values, missing readings."""

import re
import unicodedata
from typing import Literal

__all__ = [
    "ESTIMATED_WORD",
    "MISSING_WORDS",
    "Role",
    "direction_of",
    "is_sum",
    "language_zone",
    "plain_words",
    "role_of",
]

Role = Literal[
    "cost", "other", "time", "from", "to", "meter", "unit", "quality", "direction", "export", "import", "net",
    "generation", "register", "sum",
]  # fmt: skip

_MISSING = "null none nan nil na n/a n.a. #n/a ? - -- --- missing \\n unavailable unknown"
MISSING_WORDS = frozenset(_MISSING.split())
ESTIMATED_WORD = re.compile(
    r"e|s|f|ersatz.*|est(\b|im).*|geschat.*|arvioitu.*|estim.*|stim.*|szac.*|substitut.*|uppskatt.*|beregn.*"
    r"|anslaet.*|provis.*|vorlaufig.*"
)
_SUM = re.compile(
    r"(sum(me?|a|e)?|gesamt(summe|verbrauch)?|total(e|t|en|i|s)?|grand total|totaux|somme|suma|razem"
    r"|yhteensa|i alt"
    r"|ialt|average|mean|mittel(wert)?|durchschnitt|moyenne|media|min(imum)?|max(imum)?|count|anzahl)( .*)?"
)
# Nearly all labels fail this quick look.
_SUM_BEGINS = re.compile(
    r"[\W\u00d8\u00f8_]*(sum|tot|ges|gra|som|raz|yht|i ?alt|ave|mea|mit|dur|moy|med|min|max|cou|anz)",
    re.IGNORECASE,
)
_FOLDED = str.maketrans({"ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ß": "ss", "ł": "l", "Ł": "L", "đ": "d"})


def plain_words(text: str) -> str:
    """`MålepunktsID` is "malepunkts id": small letters without accents, words apart."""
    text = unicodedata.normalize("NFKD", text[:200].translate(_FOLDED))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return " ".join(re.findall(r"[a-z]+|[0-9]+", text.lower()))


# In this order: the first that is found in the plain words names the role of the column.
_WORDS: tuple[tuple[Role, str], ...] = (
    (
        "cost",
        (
            r"costs?|price|preis|kosten|betrag|eur|euro|chf|gbp|usd|tax|charge|importe|prix|cout|pris"
            r"|koszt"
        ),
    ),
    (
        "other",
        (
            r"reactive|reaktiv\w*|blind\w*|voltage|spannung|intensity|current|temp\w*|sub metering"
            r"|factor|frequency|frequenz|acorn\w*|postcode|capacity|co2|notes?|cos|stdor\w*|tariff?"
            r"|tarif\w*|gas|wasser|water|kommentar|comment|resoluutio|tuotteen|lukeman"
        ),
    ),
    ("unit", r"einheit|units?|unite|enhet|enhed|maleenhed|yksikko\w*|jednostka|unita|uom|unidad"),
    (
        "quality",
        (
            r"status|qualit\w*|kvalit\w*|laatu|obtencion|estimado|estimated|real|flag\w*|zustand"
            r"|validat\w*"
        ),
    ),
    (
        "register",
        (
            r"zahlerst\w*|zaehlerst\w*|register|meter readings?|index|cumul\w*|kumul\w*|stan licznika"
            r"|lectura|matarstallning|malerstand|total|state|reading|readings|stand"
        ),
    ),
    (
        "meter",
        (
            r"\w*zahlpunkt\w*|zaehlpunkt\w*|zahler\w*|zaehler\w*|meter|cups|prm|nmi|pod|mpan|ean|mprn"
            r"|lcl ?id|lclid|dataid|customer|malepunkts?|maalepunkt|mittauspisteen|ppe|entity|device"
            r"|sensor|serial|id|haus\w*|household|station"
        ),
    ),
    ("to", r"bis|to|end|ende|fin|til|hasta|loppu\w*|fine|stop|till"),
    ("from", r"von|from|start|debut|fra|desde|alku\w*|inizio|od|begin\w*|ab"),
    (
        "time",
        (
            r"datum|date|datetime|time|zeit\w*|uhrzeit|timestamp|fecha|hora|hour|data|ora|godzina"
            r"|giorno|dag|day|tag|dia|jour|heure|horodate|horaire|paiva\w*|aika|tid|tidpunkt|klokken"
            r"|tidspunkt|local|periodo?|moment|datumzeit|stunde"
        ),
    ),
    ("net", r"net|netto|saldo|netz"),
    ("generation", r"generation|solar\w*|pv|erzeug\w*|production|produktion|produccion|produzione"),
    (
        "export",
        (
            r"export\w*|einspeis\w*|ruckspeis\w*|rueckspeis\w*|vertida\w*|excedent\w*|produksjon"
            r"|injection|surplus|oddan\w*|oddanie|immess\w*|immission\w*|tuotanto|feed|received"
            r"|returned|return|reverse|abgabe|innmating|inmatning|teruglever\w*"
        ),
    ),
    ("direction", r"rodzaj|direction|richtung|category|flow|obis|art|type|typ"),
    (
        "import",
        (
            r"import\w*|bezug|bezogen|verbrauch\w*|consum\w*|conso\w*|forbruk\w*|forbrug\w*"
            r"|forbruknin\w*|kulutus|pobor|usage|used|preliev\w*|energi\w*|energy|maengde|mengde|maara"
            r"|wartosc|valeur|wert|werte|values?|valor|valore|leistung|demand|power|puissance|potencia"
            r"|potenza|wirkarbeit|grid|delivered|kwh|wh|kw|w|mwh|afname|verbruik|ae|load|lastgang|volume|hoeveelheid|menge|amount|quantity|messwert|afgenomen"
        ),
    ),
)
_ROLES = tuple((role, re.compile(rf"\b(?:{pattern})\b")) for role, pattern in _WORDS)


def role_of(name: str) -> Role | None:
    """What a column of this name holds; None if the name tells nothing."""
    words = plain_words(name)
    if is_sum(name):
        return "sum"
    for role, pattern in _ROLES:
        if pattern.search(words):
            return role
    return None


def is_sum(text: str) -> bool:
    """Whether a label is that of a sum, a mean or an extreme, which is no reading."""
    if _SUM_BEGINS.match(text) is None:
        return False
    return _SUM.fullmatch(plain_words(text.lstrip("\u00d8\u00f8 _"))) is not None  # "Ø Verbrauch" is a mean


_DIRECTIONS = tuple(
    (direction, re.compile(pattern))
    for direction, pattern in (
        (
            "export",
            (
                r"oddan\w*|injectie( \w+)?|export\w*|einspeis\w*|ruck\w*|rueck\w*|a-|2\.8\.[0-9]|received"
                r"|lieferung|production|produksjon|produktion|excedent\w*|b1|injection|generation|immess\w*"
                r"|p2|solar export|returned|teruglevering"
            ),
        ),
        (
            "import",
            (
                r"pobor\w*|pobrana|import\w*|bezug\w*|verbrauch\w*|a\+|1\.8\.[0-9]|consum\w*|delivered"
                r"|forbruk\w*|forbrug\w*|usage|e1|energia pobrana|conso\w*|preliev\w*|electric usage"
                r"|afname( \w+)?"
            ),
        ),
    )
)


def direction_of(word: str) -> str | None:
    """import or export, if a cell of a direction column says so."""
    text = word.strip().lower()
    words = plain_words(word)
    for direction, pattern in _DIRECTIONS:
        if pattern.fullmatch(text) or pattern.fullmatch(words):
            return direction
    return None


# Letters and words that only one country's exports have. Zones of one group keep the same time.
_ZONES = (
    (
        "Europe/Berlin",
        r"datum|uhrzeit|zeitstempel|zeit|verbrauch|bezug|einspeisung|wert|leistung|zahlerstand|von|bis",
    ),
    ("Europe/Paris", r"horodate|debut|valeur|heure|jour|conso\w*"),
    ("Europe/Madrid", r"fecha|hora|consumo"),
    ("Europe/Rome", r"giorno|ora|prelevata|energia attiva"),
    ("Europe/Warsaw", r"godzina|wartosc|pobor|oddanie|rodzaj"),
    ("Europe/Copenhagen", r"dato|maengde|forbrug"),
    ("Europe/Oslo", r"forbruk|produksjon|fra|til"),
    ("Europe/Stockholm", r"forbrukning|tidpunkt|inmatning"),
    ("Europe/Helsinki", r"alkuaika|kulutus|paivamaara|maara|aika"),
    ("Europe/Amsterdam", r"verbruik|teruglevering|tijd|afname"),
)


def language_zone(header: list[str]) -> str | None:
    """The zone of the country whose language the header line is in; None if that is not certain."""
    words = [plain_words(name) for name in header]
    scores = {
        zone: sum(bool(re.search(rf"\b(?:{pattern})\b", each)) for each in words) for zone, pattern in _ZONES
    }
    if any("forbrukning" in each for each in words):
        scores["Europe/Berlin"] = 0
    best = max(scores.values())
    winners = [zone for zone, score in scores.items() if score == best]
    return winners[0] if best and len(winners) == 1 else None
