"""fsskit's build: settings.ini says what, and the top-level weights/ travel as the package data `fsskit/weights`."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
parser = ConfigParser(interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
conf = parser["DEFAULT"]

setup(
    name=conf["lib_name"],
    version=conf["version"],
    description=conf["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=conf["author"],
    author_email=conf["author_email"],
    url=conf["git_url"],
    project_urls={"Source": conf["git_url"], "Issues": conf["git_url"] + "/issues"},
    keywords=[word.strip() for word in conf["keywords"].split(",")],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Framework :: Jupyter",
        "Programming Language :: Python :: 3 :: Only",
    ],
    python_requires=f">={conf['min_python']}",
    install_requires=conf["requirements"].split(),
    extras_require={"dev": conf["dev_requirements"].split()},
    packages=["fsskit", "fsskit.weights"],
    package_dir={"fsskit": "fsskit", "fsskit.weights": "weights"},
    package_data={"fsskit": ["static/*"], "fsskit.weights": ["*.safetensors", "*.json", "*.md"]},
    include_package_data=False,
    entry_points={"console_scripts": conf["console_scripts"].split()},
    zip_safe=False,
)
