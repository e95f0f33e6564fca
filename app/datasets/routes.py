"""The door to datasets and observations."""

from fastapi import APIRouter

router = APIRouter(tags=["datasets"])
