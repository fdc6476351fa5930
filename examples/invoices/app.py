"""Totals of invoices, in FastAPI: POST /totals, GET /rates/DE; the API's description is at /docs."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

RATES = {"AT": Decimal(20), "DE": Decimal(19), "FR": Decimal(20), "LU": Decimal(17)}  # VAT in percent
CENT = Decimal("0.01")

app = FastAPI(title="Invoices", version="1.0.0")
# For pages of other origins. /docs is one, too: what a function serves as HTML gets an origin of its own from Hearth,
# so that it can't act as you in the dashboard.
app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["Content-Type"])

Country = Annotated[str, Field(pattern="^[A-Z]{2}$", examples=["DE"])]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt name is an error, not ignored


class Line(Strict):
    description: Annotated[str, Field(min_length=1, max_length=200, examples=["Firewood"])]
    quantity: Annotated[int, Field(ge=1, le=10_000, examples=[3])]
    unit_price: Annotated[Decimal, Field(ge=0, max_digits=10, decimal_places=2, examples=["12.50"])]


class Invoice(Strict):
    country: Country
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]


class Totals(BaseModel):
    """Amounts are texts: binary fractions can't hold cents."""

    net: Decimal
    vat: Decimal
    gross: Decimal


class Rate(BaseModel):
    country: Country
    percent: Decimal


def rate_of(country: str) -> Decimal:
    if country not in RATES:
        raise HTTPException(404, f"no rate is known for {country}: there are {', '.join(RATES)}")
    return RATES[country]


@app.get("/", include_in_schema=False)
async def root(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("swagger_ui_html"))  # with the prefix: /fn/ann/invoices/docs


@app.get("/rates/{country}", responses={404: {"description": "No rate is known for this country"}})
async def rate(country: Country) -> Rate:
    return Rate(country=country, percent=rate_of(country))


@app.post("/totals", responses={404: {"description": "No rate is known for this country"}})
async def totals(invoice: Invoice) -> Totals:
    net = sum((line.quantity * line.unit_price for line in invoice.lines), Decimal(0)).quantize(CENT)
    vat = (net * rate_of(invoice.country) / 100).quantize(CENT, ROUND_HALF_UP)
    return Totals(net=net, vat=vat, gross=net + vat)
