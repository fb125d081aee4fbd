def html_page(result):
    return ""
